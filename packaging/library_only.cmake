# What llama.cpp's own commands share is not needed by a library: minutes less to compile. llama-cpp-python asks
# for it; CMake runs this later, after ggml's own project():
#
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=.../library_only.cmake
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
