<?php
function primes($limit) {
    $composite = array_fill(0, $limit, false);
    $count = 0;
    for ($i = 2; $i < $limit; $i++) {
        if ($composite[$i]) continue;
        $count++;
        for ($j = $i * $i; $j < $limit; $j += $i) $composite[$j] = true;
    }
    return $count;
}
function sum($n) { return $n ? $n + sum($n - 1) : 0; }
