/* Reads kafel text, writes the BPF that libkafel makes of it: kafel [aarch64] <TEXT >PROGRAM. Built by tests/suites/kafel.py. */
#include <kafel.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  struct sock_fprog program;
  kafel_ctxt_t context = kafel_ctxt_create();
  kafel_set_input_file(context, stdin);
  if (argc > 1 && !strcmp(argv[1], "aarch64")) kafel_set_target_arch(context, AUDIT_ARCH_AARCH64);
  if (kafel_compile(context, &program)) {
    fputs(kafel_error_msg(context), stderr);
    return 1;
  }
  return fwrite(program.filter, sizeof *program.filter, program.len, stdout) != program.len;
}
