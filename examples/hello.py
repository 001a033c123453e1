"""The textbook's toy: an RNN reads 'hello' letter by letter, and learns to answer 'ohlol'."""

import torch
from torch import nn

import gatewise

x, y = (torch.tensor([["ehlo".index(letter) for letter in word]]) for word in ("hello", "ohlol"))  # (B, T) = (1, 5)
embedding, rnn, output = nn.Embedding(4, 10), gatewise.RNN(10, 8, batch_first=True), nn.Linear(8, 4)
adam = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *output.parameters()], lr=0.1)
for epoch in range(1, 16):
    scores = output(rnn(embedding(x))[0]).squeeze(0)  # (T, 4)
    loss = nn.functional.cross_entropy(scores, y.squeeze(0))
    adam.zero_grad()
    loss.backward()
    adam.step()
    print(f"epoch {epoch:2}  loss {loss:.3f}  {''.join('ehlo'[i] for i in scores.argmax(1))}")
