// A library in C that aborts.

#include <stdlib.h>

void abort_in_c(int number) {
    if (number == 7) {
        abort(); // in C
    }
}
