# Compiler settings shared by every target, and the two functions the folders use.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

find_program(CCACHE ccache)
if(CCACHE)
  # A precompiled header is only reusable from the cache with this sloppiness.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
endif()

add_library(pocketvlm_flags INTERFACE)
target_include_directories(pocketvlm_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(pocketvlm_flags INTERFACE -Wall -Wextra $<$<BOOL:${POCKETVLM_WERROR}>:-Werror>)
if(POCKETVLM_SANITIZE)
  target_compile_options(pocketvlm_flags INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer)
  target_link_options(pocketvlm_flags INTERFACE -fsanitize=address,undefined)
endif()
if(POCKETVLM_FUZZ)
  target_compile_options(pocketvlm_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# pocketvlm_library(name SOURCES a.cc ... LINKS folder-or-library ... [TORCH])
# TORCH: links LibTorch and reuses the one precompiled header.
function(pocketvlm_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC pocketvlm_flags ${ARG_LINKS})
  if(ARG_TORCH)
    target_link_libraries(${name} PUBLIC pocketvlm_torch)
    target_precompile_headers(${name} REUSE_FROM torch_pch)
  endif()
endfunction()

# pocketvlm_test(name SOURCES a_test.cc ... LINKS library ... LABELS unit|golden|multiprocess|gpu|slow [TORCH])
# TEST_DATA points at tests/, for golden files.
function(pocketvlm_test name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    TEST_DATA="${CMAKE_SOURCE_DIR}/tests" SOURCE_ROOT="${CMAKE_SOURCE_DIR}" BINARY_ROOT="${CMAKE_BINARY_DIR}")
  if(ARG_TORCH)
    target_link_libraries(${name} PRIVATE pocketvlm_torch)
    # Compiled as the precompiled header was: an executable's own mode (-fPIE) would refuse it.
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${name} PRIVATE -fPIC)
    target_precompile_headers(${name} REUSE_FROM torch_pch)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  # One thread a test process: two OpenMP pools on the same cores cost a scheduler quantum a region.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT "OMP_NUM_THREADS=1")
endfunction()
