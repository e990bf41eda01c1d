// idea: templates that instantiate each other without end
// problem: one
// expect: CE
template <int N, int M> struct Bomb {
    static const long value = Bomb<N - 1, M>::value + Bomb<N - 1, M + 1>::value;
};
template <int M> struct Bomb<0, M> {
    static const long value = M;
};
int main() { return Bomb<800, 0>::value; }
