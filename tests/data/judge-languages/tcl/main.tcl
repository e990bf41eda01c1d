source [file join [file dirname [info script]] survey.tcl]
interp recursionlimit {} 20000
foreach word [read stdin] { dict incr words $word }
puts [primes 20000]
puts [sum 5000]
foreach word [lsort [dict keys $words]] { puts "$word [dict get $words $word]" }
