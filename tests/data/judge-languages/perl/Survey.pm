package Survey;
use strict;
no warnings "recursion";
sub primes {
    my ($limit) = @_;
    my ($count, @composite) = (0);
    for my $i (2 .. $limit - 1) {
        next if $composite[$i];
        $count++;
        for (my $j = $i * $i; $j < $limit; $j += $i) { $composite[$j] = 1 }
    }
    return $count;
}
sub sum { my ($n) = @_; return $n ? $n + sum($n - 1) : 0 }
1;
