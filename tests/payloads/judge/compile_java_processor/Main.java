// idea: an annotation processor that the compiler finds beside the source, and runs
// problem: one
// expect: WA|CE
public class Main {
    @Deprecated
    public static void main(String[] arguments) {
        System.out.println("wrong");
    }
}
