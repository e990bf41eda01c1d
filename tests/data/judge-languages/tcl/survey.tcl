proc primes {limit} {
  set count 0
  for {set i 2} {$i < $limit} {incr i} {
    if {[info exists composite($i)]} continue
    incr count
    for {set j [expr {$i * $i}]} {$j < $limit} {incr j $i} { set composite($j) 1 }
  }
  return $count
}
proc sum {n} { expr {$n ? $n + [sum [expr {$n - 1}]] : 0} }
