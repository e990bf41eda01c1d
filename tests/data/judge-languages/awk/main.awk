function sum(n) { return n ? n + sum(n - 1) : 0 }
{ for (i = 1; i <= NF; i++) words[$i]++ }
END {
  for (i = 2; i < 20000; i++) {
    if (composite[i]) continue
    count++
    for (j = i * i; j < 20000; j += i) composite[j] = 1
  }
  print count
  for (i = 0; i < 50; i++) total += sum(100) + i * 100 * 100
  print total
  for (word in words) names[++n] = word
  for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (names[j] < names[i]) { t = names[i]; names[i] = names[j]; names[j] = t }
  for (i = 1; i <= n; i++) print names[i], words[names[i]]
}
