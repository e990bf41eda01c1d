# idea: let a set-id program of the system read it
# problem: secret
# expect: WA
# naive: -
# control: tests/escape/test_a6_privileges.py
import shutil
import subprocess

for words in (["su", "-c", "cat /root/*"], ["sudo", "-n", "cat"], ["pkexec", "cat"], ["mount", "-o", "bind", "/", "/tmp"], ["newuidmap", "1", "0", "0", "1"],
              ["unshare", "-Ur", "cat", "/etc/shadow"], ["fusermount3", "/tmp"], ["chroot", "/proc/1/root", "ls"]):  # fmt: skip
    if shutil.which(words[0]):
        try:
            done = subprocess.run(words, capture_output=True, timeout=5)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout:
            print("token", done.stdout[:100])
print("nothing")
