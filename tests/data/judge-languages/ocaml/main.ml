module Words = Map.Make (String)

let () =
  let words = ref Words.empty in
  (try
     while true do
       Str.split (Str.regexp "[ \t]+") (read_line ())
       |> List.iter (fun w -> words := Words.update w (function None -> Some 1 | Some n -> Some (n + 1)) !words)
     done
   with End_of_file -> ());
  Printf.printf "%d\n%d\n" (A_survey.primes 20000) (A_survey.sum 5000);
  Words.iter (Printf.printf "%s %d\n") !words
