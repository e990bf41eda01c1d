// idea: computation at compile time, without end
// problem: one
// expect: CE
template <int N> struct Spin {
    static constexpr long run() {
        long sum = 0;
        for (long i = 0; i < 200000000; i++) sum += i ^ N;
        return sum;
    }
    static constexpr long value = run() + Spin<N - 1>::value;
};
template <> struct Spin<0> { static constexpr long value = 0; };
int main() { return Spin<50>::value; }
