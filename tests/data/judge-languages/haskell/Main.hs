module Main where
import qualified Data.Map.Strict as Map
import Survey

main :: IO ()
main = do
  text <- getContents
  let counts = Map.fromListWith (+) [(w, 1 :: Int) | w <- words text]
  print (primes 20000)
  print (total 5000)
  mapM_ (\(w, n) -> putStrLn (w ++ " " ++ show n)) (Map.toAscList counts)
