#!/usr/bin/env python3
"""Describes a picture with libpocketvlm.so through ctypes; needs no package.

    python3 examples/python/describe.py --library build/release/libpocketvlm.so \
        --model language.gguf --mmproj mmproj.gguf photo.jpg "What is this?"
"""
import argparse
import ctypes
import sys

TextCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Sampling(ctypes.Structure):
    """pocketvlm_sampling; zero is each field's default."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("repetition_penalty", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("max_new_tokens", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
    ]


class PocketVlmError(RuntimeError):
    pass


class Session:
    """A loaded model; a context manager."""

    def __init__(self, library, model, mmproj=None):
        self._library = ctypes.CDLL(library)
        self._library.pocketvlm_last_error.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        self._library.pocketvlm_session_close.argtypes = [ctypes.c_void_p]
        self._library.pocketvlm_session_close.restype = None
        self.check(
            self._library.pocketvlm_session_open(
                model.encode(), mmproj.encode() if mmproj else None, None, ctypes.byref(self._handle)
            )
        )

    def check(self, status):
        if status != 0:
            raise PocketVlmError(self._library.pocketvlm_last_error().decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._library.pocketvlm_session_close(self._handle)

    def chat(self):
        return Chat(self, self._library, self._handle)


class Chat:
    """A conversation; a context manager."""

    def __init__(self, session, library, session_handle):
        self._session = session
        self._library = library
        self._handle = ctypes.c_void_p()
        library.pocketvlm_chat_close.argtypes = [ctypes.c_void_p]
        library.pocketvlm_chat_close.restype = None
        session.check(library.pocketvlm_chat_open(session_handle, ctypes.byref(self._handle)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._library.pocketvlm_chat_close(self._handle)

    def add_image(self, path):
        self._session.check(self._library.pocketvlm_chat_add_image_file(self._handle, path.encode()))

    def ask(self, question, on_text, max_new_tokens=100, temperature=0.0, seed=0):
        """Hands the answer to on_text piece by piece."""
        sampling = Sampling(
            struct_size=ctypes.sizeof(Sampling),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )

        @TextCallback
        def callback(text, size, _):
            on_text(ctypes.string_at(text, size).decode())
            return 0

        add_turn = self._library.pocketvlm_chat_add_turn
        self._session.check(add_turn(self._handle, b"user", question.encode()))
        answer = self._library.pocketvlm_chat_answer
        self._session.check(answer(self._handle, ctypes.byref(sampling), callback, None, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default="build/release/libpocketvlm.so")
    parser.add_argument("--model", required=True, help="language GGUF file")
    parser.add_argument("--mmproj", required=True, help="vision GGUF file")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("picture")
    parser.add_argument("question")
    options = parser.parse_args()

    def show(text):
        print(text, end="", flush=True)

    try:
        with Session(options.library, options.model, options.mmproj) as session:
            with session.chat() as chat:
                chat.add_image(options.picture)
                chat.ask(options.question, show, temperature=options.temperature)
                print()
    except (PocketVlmError, OSError) as error:
        sys.exit(f"describe.py: {error}")


if __name__ == "__main__":
    main()
