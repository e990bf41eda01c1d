{-# LANGUAGE TemplateHaskell #-}
-- idea: run code while compiling, read the host's file, leave a daemon
-- problem: one
-- expect: CE
import Language.Haskell.TH
import Language.Haskell.TH.Syntax
import System.Process

main :: IO ()
main = putStrLn $(do
    _ <- runIO (spawnCommand "(setsid sleep 1000 &) ; touch /tmp/judge-mark-haskell ~/judge-mark-haskell")
    text <- runIO (readFile "@CANARY@")
    lift text)
