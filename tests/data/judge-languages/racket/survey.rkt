#lang racket/base
(provide primes sum)
(define (primes limit)
  (define composite (make-vector limit #f))
  (for/fold ([count 0]) ([i (in-range 2 limit)] #:unless (vector-ref composite i))
    (for ([j (in-range (* i i) limit i)]) (vector-set! composite j #t))
    (add1 count)))
(define (sum n) (if (zero? n) 0 (+ n (sum (sub1 n)))))
