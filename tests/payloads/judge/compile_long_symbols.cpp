// idea: types whose names double with each step: errors of gigabytes
// problem: one
// expect: CE
template <class A, class B> struct P {};
template <int N> struct T { using type = P<typename T<N - 1>::type, typename T<N - 1>::type>; };
template <> struct T<0> { using type = int; };
int main() { T<26>::type::missing x; return x; }
