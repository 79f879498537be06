# LibTorch: the folder that scripts/setup.sh unpacks, or any unzipped LibTorch given by CMAKE_PREFIX_PATH.
find_path(TORCH_ROOT include/torch/csrc/api/include/torch/types.h
  PATHS ${CMAKE_SOURCE_DIR}/third_party/site/torch ${CMAKE_PREFIX_PATH}
  NO_DEFAULT_PATH)
if(NOT TORCH_ROOT)
  message(FATAL_ERROR "LibTorch not found: run scripts/setup.sh, or pass -DCMAKE_PREFIX_PATH=<unzipped LibTorch>")
endif()
set(NVIDIA_LIBS ${CMAKE_SOURCE_DIR}/third_party/site/nvidia/cu13/lib)

# The wheel brings headers of another fmt than the installed library; the library's come first.
get_target_property(FMT_INCLUDE fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fmt_first)
file(CREATE_LINK ${FMT_INCLUDE}/fmt ${CMAKE_BINARY_DIR}/fmt_first/fmt SYMBOLIC)

add_library(pocketvlm_torch INTERFACE)
target_include_directories(pocketvlm_torch SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/fmt_first
  ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
target_link_directories(pocketvlm_torch INTERFACE ${TORCH_ROOT}/lib)
target_link_libraries(pocketvlm_torch INTERFACE torch_cpu c10 OpenMP::OpenMP_CXX)
target_link_options(pocketvlm_torch INTERFACE
  -Wl,-rpath,${TORCH_ROOT}/lib -Wl,-rpath,${NVIDIA_LIBS} -Wl,-rpath-link,${NVIDIA_LIBS})

if(POCKETVLM_CUDA)
  find_package(CUDAToolkit REQUIRED)
  target_compile_definitions(pocketvlm_torch INTERFACE POCKETVLM_CUDA)
  # The bare toolkit lacks cuFile, cuSPARSELt and NVSHMEM; scripts/setup.sh --cuda brings their wheels.
  foreach(folder cudnn nvshmem nccl cusparselt)
    set(dir ${CMAKE_SOURCE_DIR}/third_party/site/nvidia/${folder}/lib)
    target_link_options(pocketvlm_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
  endforeach()
  # The wheel's first: LibTorch's CUDA half loads it too.
  set(nccl_wheel ${CMAKE_SOURCE_DIR}/third_party/site/nvidia/nccl)
  find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl REQUIRED HINTS ${nccl_wheel}/lib ${CUDAToolkit_LIBRARY_DIR})
  find_path(NCCL_INCLUDE nccl.h REQUIRED HINTS ${nccl_wheel}/include ${CUDAToolkit_INCLUDE_DIRS})
  target_include_directories(pocketvlm_torch SYSTEM INTERFACE ${NCCL_INCLUDE})
  target_link_libraries(pocketvlm_torch INTERFACE -Wl,--no-as-needed torch_cuda c10_cuda torch_cpu c10
    -Wl,--as-needed CUDA::cudart ${NCCL_LIBRARY})
endif()

# LibTorch's headers cost 12-30 s a file; this one precompiled header serves every target that uses them.
add_library(torch_pch OBJECT ${CMAKE_SOURCE_DIR}/cmake/torch_pch.cc)
# A precompiled header serves only targets with the same macros: those of base are on every command line.
target_link_libraries(torch_pch PUBLIC pocketvlm_flags pocketvlm_torch fmt::fmt spdlog::spdlog)
target_precompile_headers(torch_pch PRIVATE
  <torch/types.h> <torch/nn/module.h> <torch/nn/pimpl.h> <torch/csrc/autograd/custom_function.h>
  <nlohmann/json.hpp> <fmt/format.h> <string> <vector> <map> <memory>)
