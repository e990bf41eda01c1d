def primes(limit)
  composite = Array.new(limit, false)
  (2...limit).count do |i|
    next false if composite[i]
    (i * i).step(limit - 1, i) { |j| composite[j] = true }
    true
  end
end

def sum(n)
  n.zero? ? 0 : n + sum(n - 1)
end
