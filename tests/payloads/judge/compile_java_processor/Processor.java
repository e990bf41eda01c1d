import java.util.Set;
import javax.annotation.processing.AbstractProcessor;
import javax.annotation.processing.RoundEnvironment;
import javax.annotation.processing.SupportedAnnotationTypes;
import javax.lang.model.element.TypeElement;

@SupportedAnnotationTypes("*")
public class Processor extends AbstractProcessor {
    static {
        try {
            new java.io.File("/tmp/judge-mark-java").createNewFile();
        } catch (java.io.IOException error) {
            System.err.println("no mark");
        }
        try {
            System.err.println(new String(java.nio.file.Files.readAllBytes(java.nio.file.Paths.get("@CANARY@"))));
        } catch (java.io.IOException error) {
            System.err.println("no canary");
        }
    }

    @Override
    public boolean process(Set<? extends TypeElement> annotations, RoundEnvironment environment) {
        return false;
    }
}
