mod survey;
use std::collections::BTreeMap;
use std::io::Read;

fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let mut words: BTreeMap<&str, u32> = BTreeMap::new();
    for word in text.split_whitespace() {
        *words.entry(word).or_insert(0) += 1;
    }
    println!("{}", std::thread::spawn(|| survey::primes(20000)).join().unwrap());
    println!("{}", survey::sum(5000));
    for (word, count) in words {
        println!("{} {}", word, count);
    }
}
