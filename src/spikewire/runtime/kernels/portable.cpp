#define PATH on_portable
#define TABLE portable
#define NAME "portable"
#include "path.hpp"
