// idea: include a file of the host at compile time
// problem: one
// expect: CE
const CANARY: &str = include_str!("@CANARY@");
fn main() {
    println!("{}", CANARY);
}
