exports.primes = (limit) => {
  const composite = new Uint8Array(limit);
  let count = 0;
  for (let i = 2; i < limit; i++) {
    if (composite[i]) continue;
    count++;
    for (let j = i * i; j < limit; j += i) composite[j] = 1;
  }
  return count;
};
const sum = (n) => (n ? n + sum(n - 1) : 0);
exports.sum = sum;
