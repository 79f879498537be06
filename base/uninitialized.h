#pragma once

#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace pocketvlm {

/// Leaves new elements as memory has them where std::allocator makes them zero.
template <typename T>
struct UninitializedAllocator : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = UninitializedAllocator<U>;
  };

  template <typename U>
  void construct(U* place) noexcept {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Arguments>
  void construct(U* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) U(std::forward<Arguments>(arguments)...);
  }
};

/// A vector of numbers whose resize() writes none of the new ones: for large buffers that are filled right after.
template <typename T>
using UninitializedVector = std::vector<T, UninitializedAllocator<T>>;

}  // namespace pocketvlm
