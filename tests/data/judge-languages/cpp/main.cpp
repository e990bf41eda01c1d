#include <bits/stdc++.h>
#include <survey.hpp>

int main() {
    std::map<std::string, int> words;
    std::thread worker([&] {
        for (std::string word; std::cin >> word;) words[word]++;
    });
    worker.join();
    std::cout << primes(20000) << "\n" << sum(5000) << "\n";
    for (auto const &[word, count] : words) std::cout << word << ' ' << count << '\n';
}
