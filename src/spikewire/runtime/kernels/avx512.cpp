#define SPIKEWIRE_AVX512
#define PATH on_avx512
#define TABLE avx512
#define NAME "avx512"
#include "path.hpp"
