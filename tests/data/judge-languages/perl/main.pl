#!/usr/bin/perl
use strict;
use warnings;
no warnings "recursion";
use Survey;
my %words;
$words{$_}++ for map { split } <STDIN>;
print Survey::primes(20000), "\n", Survey::sum(5000), "\n";
print "$_ $words{$_}\n" for sort keys %words;
