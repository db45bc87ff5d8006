"""Files with passwords, made with other code than the one that opens them, where there is such code."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import docx
import pyzipper
from msoffcrypto.format.ooxml import OOXMLFile
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

PASSWORD = "桜ﾒﾛﾝ#2026"
ASCII_PASSWORD = "sakura#2026"


def locked_pdf(text: str = "The fare is 320 yen.", password: str = ASCII_PASSWORD) -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, encrypt=StandardEncryption(password, ownerPassword="owner-words", strength=128))
    canvas.drawString(72, 720, text)
    canvas.save()
    return target.getvalue()


def word_file(text: str = "日当は三千円です。") -> bytes:
    target = io.BytesIO()
    document = docx.Document()
    document.add_paragraph(text)
    document.save(target)
    return target.getvalue()


def locked_word(text: str = "日当は三千円です。", password: str = PASSWORD) -> bytes:
    target = io.BytesIO()
    OOXMLFile(io.BytesIO(word_file(text))).encrypt(password, target)
    return target.getvalue()


def locked_zip(files: dict[str, bytes], password: str = PASSWORD) -> bytes:
    """AES-256, as 7-Zip and WinZip write it."""
    target = io.BytesIO()
    with pyzipper.AESZipFile(target, "w", compression=zipfile.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(password.encode())
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def old_locked_zip(name: bytes, data: bytes, password: bytes) -> bytes:
    """One stored member under ZipCrypto, its name in whatever encoding: what Windows attaches to mails."""
    checksum = zlib.crc32(data)
    keys = [0x12345678, 0x23456789, 0x34567890]

    def step(byte: int) -> None:
        keys[0] = zlib.crc32(bytes([byte]), keys[0] ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = zlib.crc32(bytes([keys[1] >> 24]), keys[2] ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    for byte in password:
        step(byte)
    hidden = bytearray()
    for byte in bytes(11) + bytes([checksum >> 24]) + data:
        mixed = (keys[2] | 2) & 0xFFFF
        hidden.append(byte ^ ((mixed * (mixed ^ 1) >> 8) & 0xFF))
        step(byte)
    sizes = struct.pack("<III", checksum, len(hidden), len(data))
    common = struct.pack("<HHHHH", 20, 1, 0, 0, 0x5A21) + sizes + struct.pack("<HH", len(name), 0)
    local = b"PK\x03\x04" + common + name + bytes(hidden)
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    return local + entry + end
