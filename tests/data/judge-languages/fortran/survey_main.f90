program main
  use survey
  implicit none
  character(len=64) :: words(1000), line, word
  integer :: counts(1000), n, i, j, k, status
  n = 0
  do
    read (*, '(a)', iostat=status) line
    if (status /= 0) exit
    do while (len_trim(line) > 0)
      line = adjustl(line)
      i = index(line, ' ')
      word = line(1 : i - 1)
      line = line(i:)
      do j = 1, n
        if (words(j) == word) exit
      end do
      if (j > n) then
        n = n + 1
        words(n) = word
        counts(n) = 0
      end if
      counts(j) = counts(j) + 1
    end do
  end do
  write (*, '(i0)') primes(20000)
  write (*, '(i0)') total(5000_8)
  do i = 1, n
    j = 1
    do k = 2, n
      if (words(k) < words(j)) j = k
    end do
    write (*, '(a,1x,i0)') trim(words(j)), counts(j)
    words(j) = repeat('~', 64)
  end do
end program
