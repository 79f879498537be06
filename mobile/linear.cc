#include "mobile/linear.h"

#include <algorithm>
#include <new>

#include "base/error.h"
#include "mobile/packed_formats.h"

namespace pocketvlm {
namespace {

void check_computable(const GgufFile& file, const GgufTensor& tensor) {
  PV_CHECK(is_supported_type(tensor.type),
           "{}: the tensor \"{}\" has type {}, which cannot be computed with; quantize the model "
           "to q8_0, q4_0, q4_k or "
           "f16",
           file.path(),
           tensor.name,
           type_info(tensor.type).name);
}

}  // namespace

Activations::Activations(const Compute& compute,
                         const float* values,
                         std::int64_t tokens,
                         std::int64_t columns)
    : compute_(compute) {
  input_.tokens = tokens;
  read(values, columns);
}

Activations::Activations(const Compute& compute,
                         std::int64_t tokens,
                         std::int64_t columns,
                         InputForm form)
    : Activations(compute, nullptr, tokens, columns) {
  form_ = form;
  switch (form) {
    case InputForm::kEightBits:
      make_room();
      break;
    case InputForm::kPrompt:
      make_prompt_room();
      break;
    case InputForm::kFloats:
      own_values_.resize(static_cast<std::size_t>(tokens * columns));
      input_.values = own_values_.data();
  }
}

void Activations::read(const float* values, std::int64_t columns) {
  input_.columns = columns;
  input_.values = values;
  input_.stride = columns;
  input_.quants = nullptr;
  clear();
}

void Activations::clear() {
  if (form_ != InputForm::kPrompt) prompt_ = {};
  int8_ = {};
}

void Activations::set_columns(std::int64_t first, std::int64_t count, const float* values) {
  for (std::int64_t t = 0; t < input_.tokens; ++t, values += count) {
    switch (form_) {
      case InputForm::kEightBits:
        compute_.kernels.quantize(values, count, quantized_row(t, first));
        break;
      case InputForm::kPrompt:
        compute_.kernels.pack_prompt(values, first, count, t, prompt_, tiles_.get());
        break;
      case InputForm::kFloats:
        std::copy_n(values, count, &own_values_[static_cast<std::size_t>(t * input_.columns + first)]);
    }
  }
}

void Activations::make_room() {
  const auto size = static_cast<std::size_t>(input_.tokens * input_.columns);
  quants_.resize(size);
  scales_.resize(size / 32);
  sums16_.resize(size / 16);
  sums32_.resize(size / 32);
  input_.quants = quants_.data();
  input_.scales = scales_.data();
  input_.sums16 = sums16_.data();
  input_.sums32 = sums32_.data();
}

QuantizedRow Activations::quantized_row(std::int64_t token, std::int64_t column) {
  const std::int64_t at = token * input_.columns + column;
  return {quants_.data() + at,
          scales_.data() + at / 32,
          sums16_.data() + at / 16,
          sums32_.data() + at / 32};
}

const MatmulInput& Activations::quantized() {
  if (input_.quants != nullptr) return input_;
  make_room();
  compute_.pool.for_pieces(input_.tokens, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      compute_.kernels.quantize(
          input_.values + t * input_.stride, input_.columns, quantized_row(t, 0));
  });
  return input_;
}

void Activations::make_prompt_room() {
  constexpr std::int64_t kLine = 64;
  const std::int64_t bytes = compute_.kernels.prompt_bytes(input_.tokens, input_.columns);
  if (bytes > tiles_bytes_) {
    tiles_bytes_ = bytes;
    tiles_.reset(std::aligned_alloc(kLine, static_cast<std::size_t>(bytes)));
    if (!tiles_) throw std::bad_alloc();
  }
  prompt_ = {input_.tokens, input_.columns, tiles_.get()};
}

const PromptInput& Activations::prompt() {
  if (prompt_.tiles != nullptr) return prompt_;
  make_prompt_room();
  compute_.pool.for_pieces(input_.tokens, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      compute_.kernels.pack_prompt(input_.values + t * input_.stride, 0, input_.columns, t, prompt_, tiles_.get());
  });
  return prompt_;
}

const Int8Input& Activations::int8() {
  if (int8_.quants != nullptr) return int8_;
  const std::int64_t tokens = input_.tokens;
  const std::int64_t columns = int8_columns(input_.columns);
  const std::int64_t units = columns / PackedInt8::kColumns;
  quants_.resize(static_cast<std::size_t>(tokens * columns));
  scales_.resize(static_cast<std::size_t>(tokens * units));
  sums32_.resize(static_cast<std::size_t>(tokens * units));
  compute_.pool.for_pieces(tokens, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      compute_.kernels.quantize_int8(input_.values + t * input_.stride,
                                     input_.columns,
                                     columns,
                                     quants_.data() + t * columns,
                                     scales_.data() + t * units,
                                     sums32_.data() + t * units);
    }
  });
  int8_ = {.tokens = tokens,
           .columns = columns,
           .quants = quants_.data(),
           .scales = scales_.data(),
           .constants = sums32_.data()};
  return int8_;
}

MobileLinear::MobileLinear(const GgufFile& file,
                           const std::string& name,
                           std::int64_t in,
                           std::int64_t out,
                           bool with_bias) {
  file.tensor(name + ".weight", {in, out});
  *this = from_tensor(file, name + ".weight", in, out);
  if (with_bias) bias_ = read_vector(file, name + ".bias", out);
}

MobileLinear MobileLinear::from_tensor(const GgufFile& file,
                                       const std::string& name,
                                       std::int64_t in,
                                       std::int64_t out) {
  const GgufTensor& tensor = file.tensor(name);
  check_computable(file, tensor);
  PV_CHECK(
      tensor.num_elements() == in * out &&
          (type_info(tensor.type).block == 1 || tensor.row_length() == in),
      "{}: the tensor \"{}\" holds {} values in rows of {}, but the metadata ask for {} rows of {}",
      file.path(),
      name,
      tensor.num_elements(),
      tensor.row_length(),
      out,
      in);
  MobileLinear linear;
  linear.data_ = tensor.bytes.data();
  linear.type_ = tensor.type;
  linear.in_ = in;
  linear.out_ = out;
  linear.row_bytes_ = row_bytes(tensor.type, in);
  return linear;
}

const std::byte* MobileLinear::row(std::int64_t index) const { return data_ + index * row_bytes_; }

// Small enough to share evenly, and whole groups, so that the vector kernels see the same ones
// whatever the number of threads is.
std::int64_t MobileLinear::rows_per_piece(const Compute& compute, std::int64_t tokens) const {
  const std::int64_t bytes = tokens == 1 ? compute.pieces.stream : compute.pieces.batch;
  const std::int64_t row = int8_panels_ != nullptr ? int8_panel_bytes(in_) / kPanelRows
                                                   : std::max<std::int64_t>(1, row_bytes_);
  const std::int64_t piece = bytes / row / kRowGroup * kRowGroup;
  const std::int64_t fair =
      (out_ / compute.pool.limit() / 4 + kRowGroup - 1) / kRowGroup * kRowGroup;
  return std::max(kRowGroup, std::min(piece, fair));
}

void MobileLinear::forward_rows(const Compute& compute,
                                Activations& x,
                                std::int64_t begin,
                                std::int64_t end,
                                float* y,
                                std::int64_t y_stride) const {
  const std::int64_t panel = begin / kPanelRows;
  if (int8_panels_ != nullptr) {
    compute.kernels.matmul_int8(
        {int8_panels_ + panel * int8_panel_bytes(in_), end - begin}, x.int8(), y, y_stride);
  } else if (panels_ != nullptr) {
    const PackedRows rows = {panels_ + panel * panel_bytes(type_, in_), end - begin};
    if (input_form(compute, x.tokens()) == InputForm::kPrompt)
      compute.kernels.prompt_matmul(type_)(rows, x.prompt(), y, y_stride);
    else
      packed_matmul_for(compute.kernels, type_, in_)(rows, x.quantized(), y, y_stride);
  } else if (input_form(compute, x.tokens()) == InputForm::kPrompt) {
    compute.kernels.prompt_matmul_rows(type_)({row(begin), row_bytes_, end - begin}, x.prompt(), y, y_stride);
  } else {
    const MatmulInput& input = needs_quantized_input(type_) ? x.quantized() : x.floats();
    matmul_for(compute.kernels, type_)({row(begin), row_bytes_, end - begin}, input, y, y_stride);
  }
  if (bias_.empty()) return;
  for (std::int64_t t = 0; t < x.tokens(); ++t) {
    compute.kernels.add_scaled(
        &bias_[static_cast<std::size_t>(begin)], 1.0F, end - begin, y + t * y_stride);
  }
}

InputForm MobileLinear::input_form(const Compute& compute, std::int64_t tokens) const {
  const auto has = [&](auto* functions) { return functions != nullptr && functions(type_) != nullptr; };
  const bool in_bf16 = panels_ != nullptr ? has(compute.kernels.prompt_matmul)
                                          : compute.bf16_products && has(compute.kernels.prompt_matmul_rows);
  if (in_bf16 && tokens >= kPromptTokens) return InputForm::kPrompt;
  return needs_quantized_input(type_) ? InputForm::kEightBits : InputForm::kFloats;
}

// Made by all threads before they share the loop.
void MobileLinear::prepare(const Compute& compute, Activations& x) const {
  if (int8_panels_ != nullptr) {
    x.int8();
    return;
  }
  switch (input_form(compute, x.tokens())) {
    case InputForm::kPrompt:
      x.prompt();
      break;
    case InputForm::kEightBits:
      x.quantized();
      break;
    case InputForm::kFloats:
      break;
  }
}

void MobileLinear::forward(const Compute& compute,
                           Activations& x,
                           float* y,
                           std::int64_t y_stride) const {
  prepare(compute, x);
  compute.pool.for_pieces(
      out_, rows_per_piece(compute, x.tokens()), [&](std::int64_t begin, std::int64_t end) {
        forward_rows(compute, x, begin, end, y + begin, y_stride);
      });
}

void MobileLinear::forward_all(const Compute& compute,
                               Activations& x,
                               std::initializer_list<Output> outputs) {
  std::int64_t total = 0;
  for (const Output& output : outputs) {
    output.linear->prepare(compute, x);
    const std::int64_t piece = output.linear->rows_per_piece(compute, x.tokens());
    total += (output.linear->out_ + piece - 1) / piece;
  }
  compute.pool.for_pieces(total, 1, [&](std::int64_t index, std::int64_t) {
    for (const auto& [linear, y] : outputs) {
      const std::int64_t piece = linear->rows_per_piece(compute, x.tokens());
      const std::int64_t count = (linear->out_ + piece - 1) / piece;
      if (index >= count) {
        index -= count;
        continue;
      }
      const std::int64_t begin = index * piece;
      linear->forward_rows(
          compute, x, begin, std::min(begin + piece, linear->out_), y + begin, linear->out_);
      return;
    }
  });
}

std::vector<float> MobileLinear::forward(const Compute& compute,
                                         const float* x,
                                         std::int64_t tokens) const {
  std::vector<float> y(static_cast<std::size_t>(tokens * out_));
  Activations input(compute, x, tokens, in_);
  forward(compute, input, y.data(), out_);
  return y;
}

std::vector<float> read_vector(const GgufFile& file, const std::string& name, std::int64_t size) {
  std::vector<float> values = read_floats(file, name);
  PV_CHECK(static_cast<std::int64_t>(values.size()) == size,
           "{}: the tensor \"{}\" has {} values, but the metadata ask for {}",
           file.path(),
           name,
           values.size(),
           size);
  return values;
}

std::vector<float> read_floats(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = file.tensor(name);
  check_computable(file, tensor);
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  const std::int64_t columns = tensor.row_length();
  const std::int64_t bytes = row_bytes(tensor.type, columns);
  for (std::int64_t r = 0; r < tensor.num_rows(); ++r) {
    dequantize_row(tensor.type,
                   tensor.bytes.data() + r * bytes,
                   columns,
                   &values[static_cast<std::size_t>(r * columns)]);
  }
  return values;
}

MobileNorm::MobileNorm(
    const GgufFile& file, const std::string& name, std::int64_t size, float epsilon, bool with_bias)
    : weight(read_vector(file, name + ".weight", size)), eps(epsilon) {
  if (with_bias) bias = read_vector(file, name + ".bias", size);
}

void MobileNorm::forward(const Compute& compute,
                         const float* x,
                         std::int64_t tokens,
                         float* y) const {
  const auto size = static_cast<std::int64_t>(weight.size());
  compute.pool.for_pieces(tokens, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      if (bias.empty())
        compute.kernels.rms_norm(x + t * size, weight.data(), size, eps, y + t * size);
      else
        compute.kernels.layer_norm(
            x + t * size, weight.data(), bias.data(), size, eps, y + t * size);
    }
  });
}

}  // namespace pocketvlm
