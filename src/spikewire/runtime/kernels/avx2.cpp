#define SPIKEWIRE_AVX2
#define PATH on_avx2
#define TABLE avx2
#define NAME "avx2"
#include "path.hpp"
