module Survey (primes, total) where
import Data.Array.ST
import Data.Array.Unboxed
import Control.Monad

primes :: Int -> Int
primes limit = length (filter not (drop 2 (elems sieve)))
  where
    sieve :: UArray Int Bool
    sieve = runSTUArray $ do
      composite <- newArray (0, limit - 1) False
      forM_ [2 .. limit - 1] $ \i -> do
        c <- readArray composite i
        unless c $ forM_ [i * i, i * i + i .. limit - 1] $ \j -> writeArray composite j True
      return composite

total :: Integer -> Integer
total 0 = 0
total n = n + total (n - 1)
