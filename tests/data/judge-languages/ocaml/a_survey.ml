let primes limit =
  let composite = Array.make limit false in
  let count = ref 0 in
  for i = 2 to limit - 1 do
    if not composite.(i) then begin
      incr count;
      let j = ref (i * i) in
      while !j < limit do composite.(!j) <- true; j := !j + i done
    end
  done;
  !count

let rec sum n = if n = 0 then 0 else n + sum (n - 1)
