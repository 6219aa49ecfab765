//! What answers are to go on from: short and long, so that some are read by kernels of few rows and others by those of many.

pub const PROMPTS: [&str; 20] = [
    "Once upon a time",
    "The capital of France is",
    "1, 2, 3, 5, 8, 13,",
    "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number.\"\"\"\n    if n < 2:\n        return n\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "SELECT name, COUNT(*) FROM orders WHERE year = 2024 GROUP BY",
    "{\"name\": \"Ada Lovelace\", \"born\": 1815, \"occupation\": \"mathematician\", \"children\": [",
    "Il était une fois, dans un petit village au bord de la mer, un vieux pêcheur qui",
    "Die Katze sitzt auf der Fensterbank und schaut den Vögeln zu. Plötzlich",
    "El perro corre por el parque mientras los niños",
    "床前明月光，",
    "Shopping list:\n- two loaves of bread\n- a dozen eggs\n- 500 g of flour\n- ",
    "Q: Why is the sky blue?\nA:",
    "Dear Sir or Madam,\n\nI am writing to complain about the washing machine that I bought from your shop on 3 March. It",
    "The three laws of thermodynamics can be stated as follows. First,",
    "| planet | moons |\n|---|---:|\n| Earth | 1 |\n| Mars | 2 |\n| Jupiter |",
    "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer the slings and arrows of outrageous \
     fortune, or to take arms against a sea of troubles",
    "It was a bright cold day in the north, and the harbour was full of ships. The captain of the largest of them, a woman of \
     some sixty years who had sailed round the world four times, stood at the rail and counted the barrels that were carried \
     aboard: flour, salted fish, water, rope, and one small crate that nobody wanted to explain to her. She asked the mate. The \
     mate looked at his boots and said",
    "Translate to French: \"The weather is fine today, and we are going to the beach.\"\nFrench:",
    "2 + 2 = 4\n3 + 5 = 8\n12 + 30 = 42\n7 * 6 = 42\n100 / 4 =",
];
