package body Survey is
   function Primes (Limit : Positive) return Natural is
      Composite : array (2 .. Limit - 1) of Boolean := (others => False);
      Count : Natural := 0;
      J : Positive;
   begin
      for I in Composite'Range loop
         if not Composite (I) then
            Count := Count + 1;
            J := I;
            while J <= (Limit - 1) / I * I and then J < Limit loop
               Composite (J) := True;
               J := J + I;
            end loop;
         end if;
      end loop;
      return Count;
   end Primes;
end Survey;
