package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
)

func main() {
	words := map[string]int{}
	in := bufio.NewScanner(os.Stdin)
	in.Split(bufio.ScanWords)
	for in.Scan() {
		words[in.Text()]++
	}
	found := make(chan int)
	go func() { found <- primes(20000) }()
	fmt.Println(<-found)
	fmt.Println(sum(5000))
	var names []string
	for word := range words {
		names = append(names, word)
	}
	sort.Strings(names)
	for _, word := range names {
		fmt.Println(word, words[word])
	}
}
