#include "exporter/onnx_graph.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "exporter/onnx_wire.h"

namespace pocketvlm {
namespace {

/// Field numbers of onnx.proto (github.com/onnx/onnx, onnx/onnx.proto), message by message.
namespace model {
constexpr int kIrVersion = 1, kProducerName = 2, kGraph = 7, kOpsetImport = 8, kMetadata = 14;
}
namespace opset {
constexpr int kVersion = 2;  // without field 1, domain: the standard operators
}
namespace metadata {
constexpr int kKey = 1, kValue = 2;
}
namespace graph_field {
constexpr int kNode = 1, kName = 2, kInitializer = 5, kInput = 11, kOutput = 12;
}
namespace node_field {
constexpr int kInput = 1, kOutput = 2, kName = 3, kOpType = 4, kAttribute = 5;
}
namespace attribute_field {
constexpr int kName = 1, kFloat = 2, kInt = 3, kInts = 8, kType = 20;
constexpr std::int64_t kTypeFloat = 1, kTypeInt = 2, kTypeInts = 7;
}  // namespace attribute_field
namespace tensor_field {
constexpr int kDims = 1, kDataType = 2, kName = 8, kRawData = 9;
}
namespace value_field {
constexpr int kName = 1, kType = 2;                // ValueInfoProto
constexpr int kTensorType = 1;                     // TypeProto
constexpr int kElementType = 1, kShape = 2;        // TypeProto.Tensor
constexpr int kDim = 1;                            // TensorShapeProto
constexpr int kDimValue = 1;                       // TensorShapeProto.Dimension
}  // namespace value_field

constexpr std::int64_t kIrVersion = 8;  // of ONNX 1.12, which brought operator set 17

/// TensorProto.DataType.
struct DataType {
  torch::Dtype dtype;
  std::int64_t number;
};
constexpr DataType kDataTypes[] = {{torch::kFloat32, 1}, {torch::kUInt8, 2},  {torch::kInt8, 3},
                                   {torch::kInt32, 6},   {torch::kInt64, 7}, {torch::kFloat16, 10}};

std::int64_t type_number(torch::Dtype dtype) {
  for (const DataType& type : kDataTypes) {
    if (type.dtype == dtype) return type.number;
  }
  TORCH_INTERNAL_ASSERT(false, "no ONNX type for this dtype");
}

torch::Dtype dtype_of(std::int64_t number, const std::string& where) {
  for (const DataType& type : kDataTypes) {
    if (type.number == number) return type.dtype;
  }
  fail("{}: data type {} is not among those that an export writes", where, number);
}

std::uint64_t bytes_of(const std::vector<std::int64_t>& shape, torch::Dtype dtype) {
  std::uint64_t bytes = torch::elementSize(dtype);
  for (const std::int64_t side : shape) bytes *= static_cast<std::uint64_t>(side);
  return bytes;
}

WireWriter encode(const OnnxNode& node) {
  WireWriter out;
  for (const std::string& input : node.inputs) out.bytes(node_field::kInput, input);
  out.bytes(node_field::kOutput, node.output);
  out.bytes(node_field::kName, node.output);
  out.bytes(node_field::kOpType, node.op);
  for (const auto& [name, value] : node.attributes) {
    WireWriter attribute;
    attribute.bytes(attribute_field::kName, name);
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
      attribute.number(attribute_field::kInt, *number);
      attribute.number(attribute_field::kType, attribute_field::kTypeInt);
    } else if (const auto* real = std::get_if<float>(&value)) {
      attribute.float32(attribute_field::kFloat, *real);
      attribute.number(attribute_field::kType, attribute_field::kTypeFloat);
    } else {
      for (const std::int64_t item : std::get<std::vector<std::int64_t>>(value)) attribute.number(attribute_field::kInts, item);
      attribute.number(attribute_field::kType, attribute_field::kTypeInts);
    }
    out.message(node_field::kAttribute, attribute);
  }
  return out;
}

WireWriter encode(const OnnxValue& value) {
  WireWriter shape;
  for (const std::int64_t side : value.shape) {
    WireWriter dimension;
    dimension.number(value_field::kDimValue, side);
    shape.message(value_field::kDim, dimension);
  }
  WireWriter tensor, type, out;
  tensor.number(value_field::kElementType, type_number(torch::kFloat32));
  tensor.message(value_field::kShape, shape);
  type.message(value_field::kTensorType, tensor);
  out.bytes(value_field::kName, value.name);
  out.message(value_field::kType, type);
  return out;
}

/// Everything of a constant but its values, whose length it announces.
WireWriter encode_head(const OnnxTensor& tensor) {
  WireWriter out;
  for (const std::int64_t side : tensor.shape) out.number(tensor_field::kDims, side);
  out.number(tensor_field::kDataType, type_number(tensor.dtype));
  out.bytes(tensor_field::kName, tensor.name);
  out.head(tensor_field::kRawData, bytes_of(tensor.shape, tensor.dtype));
  return out;
}

/// The model's fields around its graph.
WireWriter encode_model(const OnnxGraph& graph) {
  WireWriter out, opset;
  out.number(model::kIrVersion, kIrVersion);
  out.bytes(model::kProducerName, "pocketvlm");
  opset.number(opset::kVersion, kOnnxOpset);
  out.message(model::kOpsetImport, opset);
  for (const auto& [key, value] : graph.metadata) {
    WireWriter property;
    property.bytes(metadata::kKey, key);
    property.bytes(metadata::kValue, value);
    out.message(model::kMetadata, property);
  }
  return out;
}

/// The graph's fields but for the constants' values.
struct EncodedGraph {
  WireWriter fields;
  std::vector<std::string> heads;  // of the constants, each with its field's head
  std::uint64_t bytes = 0;         // with the values
};

EncodedGraph encode_graph(const OnnxGraph& graph) {
  EncodedGraph encoded;
  encoded.fields.bytes(graph_field::kName, graph.name);
  for (const OnnxNode& node : graph.nodes) encoded.fields.message(graph_field::kNode, encode(node));
  encoded.fields.message(graph_field::kInput, encode(graph.input));
  encoded.fields.message(graph_field::kOutput, encode(graph.output));
  encoded.bytes = encoded.fields.text().size();
  for (const OnnxTensor& tensor : graph.constants) {
    const std::string head = encode_head(tensor).text();
    const std::uint64_t values = bytes_of(tensor.shape, tensor.dtype);
    WireWriter field;
    field.head(graph_field::kInitializer, head.size() + values);
    encoded.heads.push_back(field.text() + head);
    encoded.bytes += encoded.heads.back().size() + values;
  }
  return encoded;
}

OnnxNode decode_node(WireReader reader, const std::string& where) {
  OnnxNode node;
  while (reader.next()) {
    if (reader.field() == node_field::kInput) node.inputs.push_back(reader.text());
    if (reader.field() == node_field::kOutput) node.output = reader.text();
    if (reader.field() == node_field::kOpType) node.op = reader.text();
    if (reader.field() != node_field::kAttribute) continue;
    WireReader attribute(reader.bytes(), where);
    std::string name;
    OnnxAttribute value;
    while (attribute.next()) {
      if (attribute.field() == attribute_field::kName) name = attribute.text();
      if (attribute.field() == attribute_field::kFloat) value = attribute.float32();
      if (attribute.field() == attribute_field::kInt) value = attribute.number();
      if (attribute.field() != attribute_field::kInts) continue;
      if (!std::holds_alternative<std::vector<std::int64_t>>(value)) value = std::vector<std::int64_t>{};
      std::get<std::vector<std::int64_t>>(value).push_back(attribute.number());
    }
    node.attributes[name] = value;
  }
  return node;
}

OnnxValue decode_value(WireReader reader, const std::string& where) {
  OnnxValue value;
  while (reader.next()) {
    if (reader.field() == value_field::kName) value.name = reader.text();
    if (reader.field() != value_field::kType) continue;
    WireReader type(reader.bytes(), where);
    while (type.next()) {
      WireReader tensor(type.bytes(), where);
      while (tensor.next()) {
        if (tensor.field() != value_field::kShape) continue;
        WireReader shape(tensor.bytes(), where);
        while (shape.next()) {
          WireReader dimension(shape.bytes(), where);
          while (dimension.next()) value.shape.push_back(dimension.number());
        }
      }
    }
  }
  return value;
}

OnnxTensor decode_tensor(WireReader reader, const std::shared_ptr<MappedFile>& file) {
  OnnxTensor tensor;
  std::span<const std::byte> raw;
  std::int64_t type = 0;
  while (reader.next()) {
    if (reader.field() == tensor_field::kDims) tensor.shape.push_back(reader.number());
    if (reader.field() == tensor_field::kDataType) type = reader.number();
    if (reader.field() == tensor_field::kName) tensor.name = reader.text();
    if (reader.field() == tensor_field::kRawData) raw = reader.bytes();
  }
  const std::string where = fmt::format("{}: constant \"{}\"", file->path(), tensor.name);
  tensor.dtype = dtype_of(type, where);
  PV_CHECK(raw.size() == bytes_of(tensor.shape, tensor.dtype), "{}: {} bytes, its shape needs {}; the file is damaged, export it again",
           where, raw.size(), bytes_of(tensor.shape, tensor.dtype));
  tensor.value = [file, raw, dtype = tensor.dtype, shape = tensor.shape] {
    torch::Tensor value = torch::empty(shape, dtype);  // the file keeps no alignment
    std::memcpy(value.data_ptr(), raw.data(), raw.size());
    return value;
  };
  return tensor;
}

void decode_graph(WireReader reader, const std::shared_ptr<MappedFile>& file, OnnxGraph& graph) {
  const std::string& where = file->path();
  while (reader.next()) {
    if (reader.field() == graph_field::kName) graph.name = reader.text();
    if (reader.field() == graph_field::kNode) graph.nodes.push_back(decode_node(WireReader(reader.bytes(), where), where));
    if (reader.field() == graph_field::kInput) graph.input = decode_value(WireReader(reader.bytes(), where), where);
    if (reader.field() == graph_field::kOutput) graph.output = decode_value(WireReader(reader.bytes(), where), where);
    if (reader.field() == graph_field::kInitializer) graph.constants.push_back(decode_tensor(WireReader(reader.bytes(), where), file));
  }
}

/// Every value is made once, before it is used; the output is made.
void check_order(const OnnxGraph& graph, const std::string& path) {
  std::set<std::string> known = {graph.input.name};
  const auto make = [&](const std::string& name) {
    PV_CHECK(known.insert(name).second, "{}: the value \"{}\" is made twice", path, name);
  };
  for (const OnnxTensor& tensor : graph.constants) make(tensor.name);
  for (const OnnxNode& node : graph.nodes) {
    for (const std::string& input : node.inputs) {
      PV_CHECK(known.count(input) != 0, "{}: node \"{}\" ({}) uses \"{}\", which is not made before it", path, node.output, node.op, input);
    }
    make(node.output);
  }
  PV_CHECK(known.count(graph.output.name) != 0, "{}: the output \"{}\" is never made", path, graph.output.name);
}

}  // namespace

void write_onnx(const OnnxGraph& graph, const std::string& path) {
  check_order(graph, path);
  const EncodedGraph encoded = encode_graph(graph);
  WireWriter head = encode_model(graph);
  head.head(model::kGraph, encoded.bytes);
  const std::uint64_t total = head.text().size() + encoded.bytes;
  PV_CHECK(total < (std::uint64_t{1} << 31),
           "{}: would have {} bytes, and an ONNX file holds 2 GiB at most; export it as fp16 or int8", path, total);

  const std::string temporary = path + ".tmp" + std::to_string(::getpid());
  try {
    std::ofstream out(temporary, std::ios::binary);
    PV_CHECK(out.good(), "{}: cannot be written: {}", temporary, std::strerror(errno));
    const auto write = [&](const char* bytes, std::size_t count) { out.write(bytes, static_cast<std::streamsize>(count)); };
    write(head.text().data(), head.text().size());
    write(encoded.fields.text().data(), encoded.fields.text().size());
    for (std::size_t i = 0; i < graph.constants.size(); ++i) {
      const OnnxTensor& constant = graph.constants[i];
      const torch::Tensor value = constant.value();
      TORCH_INTERNAL_ASSERT(value.is_contiguous() && value.scalar_type() == constant.dtype && value.sizes() == constant.shape,
                            "constant ", constant.name, " is not what it was declared");
      write(encoded.heads[i].data(), encoded.heads[i].size());
      write(static_cast<const char*>(value.data_ptr()), value.nbytes());
    }
    out.flush();
    PV_CHECK(out.good(), "{}: writing failed: {}", path, std::strerror(errno));
  } catch (...) {
    std::filesystem::remove(temporary);
    throw;
  }
  std::filesystem::rename(temporary, path);
}

OnnxGraph read_onnx(const std::string& path) {
  const auto file = std::make_shared<MappedFile>(path);
  OnnxGraph graph;
  WireReader reader({file->data(), file->size()}, path);
  std::int64_t opset_version = 0;
  while (reader.next()) {
    if (reader.field() == model::kGraph) decode_graph(WireReader(reader.bytes(), path), file, graph);
    if (reader.field() == model::kOpsetImport) {
      WireReader field(reader.bytes(), path);
      while (field.next()) {
        if (field.field() == opset::kVersion) opset_version = field.number();
      }
    }
    if (reader.field() == model::kMetadata) {
      WireReader property(reader.bytes(), path);
      std::string key, value;
      while (property.next()) (property.field() == metadata::kKey ? key : value) = property.text();
      graph.metadata[key] = value;
    }
  }
  PV_CHECK(opset_version == kOnnxOpset, "{}: operator set {}, but exports are written in {}", path, opset_version, kOnnxOpset);
  check_order(graph, path);
  return graph;
}

}  // namespace pocketvlm
