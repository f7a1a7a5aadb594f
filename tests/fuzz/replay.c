/* replay.c - runs a fuzz target over every file of a folder, without libFuzzer: the kept inputs as an ordinary test.
 * Every input is also tried cut short at each of its first 512 bytes. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz.h"

#include <dirent.h>

static void replay(const char *path)
{
    FILE    *file = fopen(path, "rb");
    uint8_t *bytes, *part;
    long     size;
    size_t   cut;
    CHECK(file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0);
    rewind(file);
    bytes = (uint8_t *)allocate((size_t)size);
    CHECK(fread(bytes, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    CHECK(LLVMFuzzerTestOneInput(bytes, (size_t)size) == 0);
    for (cut = 0; cut < (size_t)size && cut < 512; cut++) {
        part = (uint8_t *)copy_exactly(bytes, cut);
        CHECK(LLVMFuzzerTestOneInput(part, cut) == 0);
        free(part);
    }
    free(bytes);
}

int main(int argc, char **argv)
{
    DIR           *folder = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    unsigned       files = 0;
    if (!folder) {
        fprintf(stderr, "usage: %s FOLDER, and the folder must be readable\n", argv[0]);
        return 1;
    }
    while ((entry = readdir(folder)) != NULL) {
        char path[4096];
        if (entry->d_name[0] == '.') continue;
        CHECK((size_t)snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name) < sizeof path);
        replay(path);
        files++;
    }
    closedir(folder);
    printf("%u inputs\n", files);
    CHECK(files > 0);
    return 0;
}
