{ idea: include a file of the host, and its environment }
{ problem: one }
{ expect: CE }
program attack;
{$I @CANARY@}
begin
  writeln({$I %HOME%});
end.
