#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pocketvlm {

/// One face of a font file.
struct FontFace {
  std::string path;
  int index = 0;  // inside a collection
  std::string name;  // "Noto Sans Bold"
};

/// A line of letters in grey levels.
struct DrawnLine {
  int width = 0, height = 0;
  std::vector<std::uint8_t> coverage;  // [height, width], 255 is ink
};

/// All scalable fonts below a folder, and which letters of a text each of them has. What it knows does
/// not change after it was made: for several threads at once.
class FontCollection {
 public:
  /// `text` (UTF-8): all that will ever be drawn. Files that FreeType cannot read are left out; colour
  /// and bitmap fonts, too. Throws Error when the folder holds no font.
  FontCollection(const std::string& folder, std::string_view text);

  const std::vector<FontFace>& faces() const { return faces_; }
  /// Numbers of the faces that have all letters, with ink; spaces need none.
  std::vector<int> faces_for(std::u32string_view letters) const;
  /// Nothing when some face has all letters; else the first letter that leaves none.
  std::optional<char32_t> missing_letter(std::u32string_view letters) const;

 private:
  const std::vector<std::uint64_t>* faces_with(char32_t letter) const;

  std::vector<FontFace> faces_;
  std::size_t words_ = 0;  // of a bit set of faces
  std::unordered_map<char32_t, std::vector<std::uint64_t>> by_letter_;
};

/// Draws letters with the faces of a collection. For one thread: FreeType's faces serve one at a time.
class LetterPainter {
 public:
  explicit LetterPainter(const FontCollection& fonts);
  ~LetterPainter();
  LetterPainter(const LetterPainter&) = delete;
  LetterPainter& operator=(const LetterPainter&) = delete;

  /// The letters beside each other, in the box of their ink. The face must have them all. `pixels`: size
  /// of the font. Throws Error when its file is gone.
  DrawnLine draw(int face, int pixels, const std::u32string& letters);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pocketvlm
