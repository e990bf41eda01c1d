#!/bin/bash
declare -A words
while read -ra line; do for word in "${line[@]}"; do ((words[$word]++)); done; done
declare -a composite
count=0
for ((i = 2; i < 20000; i++)); do
  ((composite[i])) && continue
  ((count++))
  for ((j = i * i; j < 20000; j += i)); do composite[j]=1; done
done
echo "$count"
sum() { if (($1)); then sum $(($1 - 1)); ((total += $1)); fi; }
total=0
for part in {0..49}; do sum 100; ((total += part * 100 * 100)); done
echo "$total"
printf '%s\n' "${!words[@]}" | LC_ALL=C sort | while read -r word; do echo "$word ${words[$word]}"; done
