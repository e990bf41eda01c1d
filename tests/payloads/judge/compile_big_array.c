// idea: a small source that becomes a program of gigabytes
// problem: one
// expect: CE
int all[1UL << 29] = {1};
int main(void) { return all[1]; }
