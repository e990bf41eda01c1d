defmodule Survey do
  def primes(limit), do: Enum.count(2..(limit - 1), &prime(&1, 2))
  defp prime(n, d) when d * d > n, do: true
  defp prime(n, d) when rem(n, d) == 0, do: false
  defp prime(n, d), do: prime(n, d + 1)
  def sum(0), do: 0
  def sum(n), do: n + sum(n - 1)
end

words = IO.read(:stdio, :all) |> String.split() |> Enum.frequencies()
IO.puts(Task.await(Task.async(fn -> Survey.primes(20000) end)))
IO.puts(Survey.sum(5000))
for word <- Enum.sort(Map.keys(words)), do: IO.puts("#{word} #{words[word]}")
