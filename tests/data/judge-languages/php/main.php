<?php
require "survey.php";
$words = array_count_values(preg_split("/\s+/", stream_get_contents(STDIN), -1, PREG_SPLIT_NO_EMPTY));
ksort($words, SORT_STRING);
echo primes(20000), "\n", sum(5000), "\n";
foreach ($words as $word => $count) echo "$word $count\n";
