# Keeps the folders of this build out of the libraries, so that another build has the same bytes.
# CMake runs this after the first project():
#
#   cmake -DCMAKE_PROJECT_llama_cpp_INCLUDE=.../paths.cmake
add_compile_options("-ffile-prefix-map=${CMAKE_SOURCE_DIR}=." "-ffile-prefix-map=${CMAKE_BINARY_DIR}=build")
