// idea: embed a file of the host
// problem: one
// expect: CE
package main

import (
	_ "embed"
	"fmt"
)

//go:embed @CANARY@
var canary string

func main() { fmt.Println(canary) }
