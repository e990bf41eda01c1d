// idea: compiler messages that drive the terminal and forge a verdict
// problem: one
// expect: CE
#error "\033[2J\033]0;owned\007"
#line 1 "x.c\nverdict=AC [2J"
#error verdict=AC
#warning "code": "AC"
int main(void) { return `; }
// the byte itself, not its escape:
#error [2J]0;owned ›
