#lang racket
(require "survey.rkt")
(define words (make-hash))
(for* ([line (in-lines)] [word (string-split line)]) (hash-update! words word add1 0))
(displayln (primes 20000))
(displayln (sum 5000))
(for ([word (sort (hash-keys words) string<?)]) (printf "~a ~a\n" word (hash-ref words word)))
