with Ada.Text_IO; use Ada.Text_IO;
with Ada.Containers.Indefinite_Ordered_Maps;
with Ada.Strings.Fixed; use Ada.Strings.Fixed;
with Survey;
procedure Main is
   package Maps is new Ada.Containers.Indefinite_Ordered_Maps (String, Natural);
   Words : Maps.Map;
   function Image (N : Long_Integer) return String is (Trim (N'Image, Ada.Strings.Left));
   procedure Add (Word : String) is
   begin
      if Word /= "" then
         if Words.Contains (Word) then Words (Word) := Words (Word) + 1; else Words.Insert (Word, 1); end if;
      end if;
   end Add;
begin
   while not End_Of_File loop
      declare
         Line : constant String := Get_Line & " ";
         First : Positive := 1;
      begin
         for I in Line'Range loop
            if Line (I) = ' ' then Add (Line (First .. I - 1)); First := I + 1; end if;
         end loop;
      end;
   end loop;
   Put_Line (Image (Long_Integer (Survey.Primes (20_000))));
   Put_Line (Image (Survey.Sum (5_000)));
   for C in Words.Iterate loop
      Put_Line (Maps.Key (C) & " " & Image (Long_Integer (Maps.Element (C))));
   end loop;
end Main;
