import java.util.*;
import java.util.stream.*;

public class Survey {
    public static void main(String[] args) throws Exception {
        Map<String, Integer> words = new TreeMap<>();
        Scanner in = new Scanner(System.in);
        while (in.hasNext()) words.merge(in.next(), 1, Integer::sum);
        Thread worker = new Thread(() -> System.out.println(tools.Numbers.primes(20000)));
        worker.start();
        worker.join();
        System.out.println(tools.Numbers.sum(5000));
        words.forEach((word, count) -> System.out.println(word + " " + count));
    }
}
