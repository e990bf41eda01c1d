module survey
contains
  integer function primes(limit)
    integer, intent(in) :: limit
    logical :: composite(limit)
    integer :: i
    composite = .false.
    primes = 0
    do i = 2, limit - 1
      if (composite(i)) cycle
      primes = primes + 1
      if (i <= 200) composite(i * i : limit - 1 : i) = .true.
    end do
  end function
  recursive function total(n) result(s)
    integer(8), intent(in) :: n
    integer(8) :: s
    if (n == 0) then
      s = 0
    else
      s = n + total(n - 1)
    end if
  end function
end module
